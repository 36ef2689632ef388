# JavisDiT: from clips with captions to scored sounding videos.  Run again after any interruption: every stage goes on.
#
#   make -f workflows/javisdit.mk SYNTH=200 PRESET=tiny                                     all of it, small, on synthetic clips
#   make -f workflows/javisdit.mk CLIPS=clips CAPTIONS=captions.csv STREAM=stdit-v3 NPROC=8     your clips, in all three stages
#   make -f workflows/javisdit.mk score PROMPTS=prompts.csv WEIGHTS2=run2 WEIGHTS3=run3          trained weights
#   make -f workflows/javisdit.mk score PROMPTS=prompts.csv WEIGHTS3=hf:JavisDiT/JavisDiT-v0.1-jav    released ones (`avtools fetch javisdit`)
#
# stage1, stage2, stage3 (tables and pools) | train1, train2, train3 | sample | score.  The data alone, also for JavisDiT's own code:
#
#   make -f workflows/javisdit.mk stage1 DATA_ROOT=datasets                    # AudioCaps, VGGSound, ... as they came
#   make -f workflows/javisdit.mk stage1 SOUNDS=sounds CAPTIONS=captions.csv   # a data set of your own
#   make -f workflows/javisdit.mk stage3 CLIPS=clips CAPTIONS=release_captions.txt
#   make -f workflows/javisdit.mk stage2 OBJECTS=sa-v AUDIOSEP=audiosep_base_4M_steps.ckpt     # of stage 3's clips
#
# stage1: sound and its caption, the picture a placeholder.  DATA_ROOT: a folder of data sets, media and metadata (DATASETS=audiocaps,vggsound
# names some); or SOUNDS, and CAPTIONS: a table with the columns id, audio_text.  With neither, stage 1 trains on stage 3's sounds.
# stage3: video, sound and caption.  CAPTIONS: TAVGBench's lines of NAME.mp4, a space, the caption (.txt), or a table with the columns id, text.
# stage2: what the prior learns to tell from true pairs, for the clips of PAIRS (a table with text; stage 3's): sound made of
# captions alone (gen-unpaired; UNPAIRED=no leaves it out), their sounds' sources (separate: OUT/stems), and objects of
# the videos in OBJECTS, a folder with SA-V's annotations or a table (masklets: OUT/masklets; none: left out).
# The networks: `avtools fetch gen-unpaired`, `avtools fetch masklets`, AUDIOSEP=FILE.  Without any weights:
#   make -f workflows/javisdit.mk stage2 PAIRS=toys.csv UNPAIRED=no SEPARATE='--method hpss' OBJECTS=toys.csv MASKLETS='--mask-column mask_path'
# They write OUT/stageN.csv and, as JavisDiT reads it, OUT/stageN/train.csv; clips and captions without a partner are listed in OUT/errors/;
# rows that fail are listed there too, and end the target beyond MAX_BAD.  Asked for by name they look at all files anew, else their table is
# taken as it is: one of your own may lie there.
#
# train1, train2, train3: each begins with what the one before made.  SET: settings of all, SET1, SET2, SET3: of one; STEPS: of each.  STREAM:
# OpenSora's STDiT-v3 (hf:hpcai-tech/OpenSora-STDiT-v3).  VIDEO, SOUND, WORDS, IMAGEBIND: --weights video=, sound=, words=, imagebind=.  WEIGHTS1, WEIGHTS2, WEIGHTS3: what a
# stage has trained; it does not train then.  PRESET=tiny needs no weights.
# sample: sounding videos of PROMPTS (a table with text; of stage 3's clips those held out); SAMPLE: more options, say --set sampling.task=v2a.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: all stage1 stage2 stage3 train1 train2 train3 sample score FORCE
.DELETE_ON_ERROR:

AVTOOLS   ?= avtools
OUT       ?= javisdit
MAX_BAD   ?= 5%
JOBS      ?= $(shell nproc)
NPROC     ?= 1
SYNTH     ?=
DATA_ROOT ?=
DATASETS  ?= all
SOUNDS    ?= $(or $(DATA_ROOT),$(if $(SYNTH),$(OUT)/synth/mixtures))
CLIPS     ?= $(if $(SYNTH),$(OUT)/synth/clips,clips)
CAPTIONS  ?= $(if $(SYNTH),$(OUT)/synth.csv)
PAIRS     ?= $(OUT)/stage3.csv
AUDIOSEP  ?=
SEPARATE  ?= $(if $(SYNTH),--method hpss,--propose $(if $(AUDIOSEP),--weights "$(AUDIOSEP)"))
UNPAIRED  ?= $(if $(SYNTH),no,--match-duration)
OBJECTS   ?= $(if $(SYNTH),$(OUT)/synth.csv)
MASKLETS  ?= $(if $(SYNTH),--mask-column mask_path)
SPLIT     ?= --ratio $(if $(SYNTH),train=0.8$(comma)valid=0.1$(comma)test=0.1,train=0.96$(comma)valid=0.02$(comma)test=0.02)
PRESET    ?=
STEPS     ?=
SET       ?=
SET1      ?=
SET2      ?=
SET3      ?=
STREAM    ?=
VIDEO     ?=
SOUND     ?=
WORDS     ?=
IMAGEBIND ?=
WEIGHTS1  ?=
WEIGHTS2  ?=
WEIGHTS3  ?=
PROMPTS   ?= $(OUT)/split3/test.csv
SAMPLE    ?=
METRICS   ?= av-align,loudness,health
SCORE     ?=

comma := ,
bad    = --on-error drop --max-bad $(MAX_BAD) --errors $(OUT)/errors/$(1).jsonl
run    = -j $(JOBS) $(call bad,$(basename $(@F))-$(1))
ranks  = $(if $(filter 1,$(NPROC)),$(AVTOOLS),torchrun --nproc-per-node $(NPROC) -m avtools)
anew   = $(if $(filter $(1),$(MAKECMDGOALS)),FORCE) $(if $(SYNTH),$(OUT)/synth.csv)

all: score

$(OUT)/synth.csv:
	$(AVTOOLS) synth -n $(SYNTH) --seconds 2 --fps 24 --size 64x48 --objects 1 -d "$(OUT)/synth" -o $@ -j $(JOBS)

# --- data -------------------------------------------------------------------------------------------------------------

ifneq ($(DATA_ROOT),)
captions = $(DATASETS) --data-root "$(DATA_ROOT)" $(call run,join)
else
captions = table --with "$(CAPTIONS)" --on id --take audio_text
endif

stage1: $(OUT)/stage1.csv
ifneq ($(SOUNDS),)
$(OUT)/stage1.csv: $(call anew,stage1)
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan audio "$(SOUNDS)" \
	  | $(AVTOOLS) probe $(call run,probe) \
	  | $(AVTOOLS) trim --max-seconds 30 -d "$(OUT)/trimmed" $(call run,trim) \
	  | $(AVTOOLS) resample --rate 16000 --channels 1 -d "$(OUT)/sounds" $(call run,resample) \
	  | $(AVTOOLS) mkmeta join $(captions) --unmatched "$(OUT)/errors/stage1-unmatched.csv" \
	  | $(AVTOOLS) mkmeta dummy-video $(call run,dummy-video) \
	  | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage1" -o $@
else
$(OUT)/stage1.csv: $(OUT)/stage3.csv
	cp $< $@
endif

ifeq ($(UNPAIRED),no)
unpaired = $(AVTOOLS) mkmeta merge "$(PAIRS)"
else
unpaired = $(AVTOOLS) gen-unpaired $(UNPAIRED) -d "$(OUT)/unpaired" $(call run,gen-unpaired) "$(PAIRS)"
endif
objects = $(if $(wildcard $(OBJECTS)/.),$(AVTOOLS) mkmeta scan video "$(OBJECTS)",$(AVTOOLS) mkmeta merge "$(OBJECTS)")

stage2: $(OUT)/stage2.csv
$(OUT)/stage2.csv: $(PAIRS) $(call anew,stage2)
	mkdir -p "$(OUT)/errors" "$(OUT)/stems" "$(OUT)/masklets"
	$(AVTOOLS) separate $(SEPARATE) --legacy-json --pool-list "$(OUT)/stems/pool_list.txt" -d "$(OUT)/stems" \
	  $(call run,separate) "$(PAIRS)" -o "$(OUT)/stems.csv"
	$(if $(OBJECTS),$(objects) \
	  | $(AVTOOLS) masklets $(MASKLETS) --pool-list "$(OUT)/masklets/pool_list.txt" -d "$(OUT)/masklets" \
	  $(call run,masklets) -o "$(OUT)/masklets.csv")
	$(unpaired) | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage2" -o $@

described = $(if $(filter %.txt,$(CAPTIONS)),tavgbench --captions "$(CAPTIONS)",table --with "$(CAPTIONS)" --on id --take text)

stage3: $(OUT)/stage3.csv
$(OUT)/stage3.csv: $(call anew,stage3)
	$(if $(CAPTIONS),,$(error CAPTIONS: a table with the columns id, text, or TAVGBench's release_captions.txt))
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan video "$(CLIPS)" \
	  | $(AVTOOLS) probe --fmin 10 $(call run,probe) \
	  | $(AVTOOLS) uni-fps --fps 24 -d "$(OUT)/fps24" $(call run,uni-fps) \
	  | $(AVTOOLS) extract-audio --rate 16000 -d "$(OUT)/wav16" $(call run,extract-audio) \
	  | $(AVTOOLS) mkmeta join $(described) --unmatched "$(OUT)/errors/stage3-unmatched.csv" \
	  | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage3" -o $@

# By name, so that what is held out of one stage is held out of all.
$(OUT)/split%/train.csv: $(OUT)/stage%.csv
	$(AVTOOLS) mkmeta split $< --by id $(SPLIT) --into "$(@D)" > /dev/null
$(OUT)/split3/test.csv: $(OUT)/split3/train.csv ;

# --- networks ---------------------------------------------------------------------------------------------------------

part  = $(if $(2),--weights "$(1)=$(2)")
words = $(call part,words,$(WORDS))
pairs = $(call part,video,$(VIDEO)) $(call part,sound,$(SOUND)) $(call part,imagebind,$(IMAGEBIND))
valid = $$(test $$(wc -l < "$(<D)/valid.csv") -le $(NPROC) || echo --valid "$(<D)/valid.csv")
pools = $$(for pool in stems masklets; do test ! -s "$(OUT)/$$pool/pool_list.txt" || echo --set "$$pool=$(OUT)/$$pool"; done)
first = $(or $(WEIGHTS1),$(OUT)/train1)
prior = $(call part,prior,$(or $(WEIGHTS2),$(if $(WEIGHTS3),,$(OUT)/train2)))

# A stage of training: $(1) its number, $(2) the system, $(3) weights, pools, and what it begins with.
define train
	$(ranks) train $(2) $< $(if $(PRESET),--preset $(PRESET)) $(SET) $(SET$(1)) $(if $(STEPS),--max-steps $(STEPS)) $(valid) $(3) -d "$(@D)" --max-bad $(MAX_BAD)
	! test -e "$(@D)/requeue"
	touch $@
endef

train1: $(OUT)/train1/finished
$(OUT)/train1/finished: $(OUT)/split1/train.csv
	$(call train,1,javisdit-audio,$(call part,sound,$(SOUND)) $(words) $(if $(STREAM),--init "$(STREAM)"))

train2: $(OUT)/train2/finished
$(OUT)/train2/finished: $(OUT)/split2/train.csv
	$(call train,2,javisdit-prior,$(pairs) $(pools))

train3: $(OUT)/train3/finished
$(OUT)/train3/finished: $(OUT)/split3/train.csv $(if $(WEIGHTS1),,$(OUT)/train1/finished) $(if $(WEIGHTS2),,$(OUT)/train2/finished)
	$(call train,3,javisdit,$(pairs) $(words) $(prior) --init "$(first)" $(if $(STREAM),--init "video-stream=$(STREAM)"))

sample: $(OUT)/made.csv
$(OUT)/made.csv: $(PROMPTS) $(if $(WEIGHTS3),,$(OUT)/train3/finished)
	mkdir -p "$(OUT)/errors"
	$(ranks) sample javisdit $< --weights "$(or $(WEIGHTS3),$(OUT)/train3)" $(prior) $(pairs) $(words) $(SAMPLE) --mux -d "$(OUT)/made" -j $(JOBS) $(call bad,sample) -o $@

score: $(OUT)/score.json
$(OUT)/score.json: $(OUT)/made.csv
	$(AVTOOLS) score $(METRICS) $< $(SCORE) --summary $@ -o "$(OUT)/scored.csv" -j $(JOBS)
