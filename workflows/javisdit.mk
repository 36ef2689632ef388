# JavisDiT's data preparation as pipes.  Run again after any interruption: what is made is not made again.
#
#   make -f workflows/javisdit.mk stage1 DATA_ROOT=datasets                    # AudioCaps, VGGSound, ... as they came
#   make -f workflows/javisdit.mk stage1 SOUNDS=sounds CAPTIONS=captions.csv   # a data set of your own
#   make -f workflows/javisdit.mk stage3 CLIPS=clips CAPTIONS=release_captions.txt
#   make -f workflows/javisdit.mk stage2 OBJECTS=sa-v AUDIOSEP=audiosep_base_4M_steps.ckpt     # of stage 3's clips
#
# stage1: sound and its caption, the picture a placeholder.  DATA_ROOT: a folder of data sets, media and metadata
# (DATASETS=audiocaps,vggsound names some); CAPTIONS: instead, a table with the columns id, audio_text.
# stage3: video, sound and caption.  CAPTIONS: TAVGBench's lines of NAME.mp4, a space, the caption.
# stage2: what the prior learns to tell from true pairs, for the clips of PAIRS (a table with text; stage 3's): sound made of
# captions alone (gen-unpaired; UNPAIRED=no leaves it out), their sounds' sources (separate: OUT/stems), and objects of
# the videos in OBJECTS, a folder with SA-V's annotations or a table (masklets: OUT/masklets; none: left out).
# The networks: `avtools fetch gen-unpaired`, `avtools fetch masklets`, AUDIOSEP=FILE.  Without any weights:
#   make -f workflows/javisdit.mk stage2 PAIRS=toys.csv UNPAIRED=no SEPARATE='--method hpss' OBJECTS=toys.csv MASKLETS='--mask-column mask_path'
# All write OUT/stageN.csv and, as JavisDiT reads it, OUT/stageN/train.csv; clips and captions without a partner are
# listed in OUT/errors/; rows that fail are listed there too, and end the target beyond MAX_BAD.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: stage1 stage2 stage3

AVTOOLS  ?= avtools
OUT      ?= javisdit
MAX_BAD  ?= 5%
JOBS     ?= $(shell nproc)
CAPTIONS ?=
DATA_ROOT ?= datasets
DATASETS ?= all
SOUNDS   ?= $(DATA_ROOT)
CLIPS    ?= clips
PAIRS    ?= $(OUT)/stage3.csv
AUDIOSEP ?=
SEPARATE ?= --propose $(if $(AUDIOSEP),--weights "$(AUDIOSEP)")
UNPAIRED ?= --match-duration
OBJECTS  ?=
MASKLETS ?=

bad = --on-error drop --max-bad $(MAX_BAD) --errors $(OUT)/errors/$@-$(1).jsonl
run = -j $(JOBS) $(call bad,$(1))
ifdef CAPTIONS
captions = table --with "$(CAPTIONS)" --on id --take audio_text
else
captions = $(DATASETS) --data-root "$(DATA_ROOT)" $(call bad,join)
endif

stage1:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan audio "$(SOUNDS)" \
	  | $(AVTOOLS) probe $(call run,probe) \
	  | $(AVTOOLS) trim --max-seconds 30 -d "$(OUT)/trimmed" $(call run,trim) \
	  | $(AVTOOLS) resample --rate 16000 --channels 1 -d "$(OUT)/wav16" $(call run,resample) \
	  | $(AVTOOLS) mkmeta join $(captions) --unmatched "$(OUT)/errors/stage1-unmatched.csv" \
	  | $(AVTOOLS) mkmeta dummy-video $(call run,dummy-video) \
	  | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage1" -o "$(OUT)/stage1.csv"

ifeq ($(UNPAIRED),no)
unpaired = $(AVTOOLS) mkmeta merge "$(PAIRS)"
else
unpaired = $(AVTOOLS) gen-unpaired $(UNPAIRED) -d "$(OUT)/unpaired" $(call run,gen-unpaired) "$(PAIRS)"
endif
objects = $(if $(wildcard $(OBJECTS)/.),$(AVTOOLS) mkmeta scan video "$(OBJECTS)",$(AVTOOLS) mkmeta merge "$(OBJECTS)")

stage2:
	mkdir -p "$(OUT)/errors" "$(OUT)/stems" "$(OUT)/masklets"
	$(AVTOOLS) separate $(SEPARATE) --legacy-json --pool-list "$(OUT)/stems/pool_list.txt" -d "$(OUT)/stems" \
	  $(call run,separate) "$(PAIRS)" -o "$(OUT)/stems.csv"
	$(if $(OBJECTS),$(objects) \
	  | $(AVTOOLS) masklets $(MASKLETS) --pool-list "$(OUT)/masklets/pool_list.txt" -d "$(OUT)/masklets" \
	  $(call run,masklets) -o "$(OUT)/masklets.csv")
	$(unpaired) | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage2" -o "$(OUT)/stage2.csv"

stage3:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan video "$(CLIPS)" \
	  | $(AVTOOLS) probe --fmin 10 $(call run,probe) \
	  | $(AVTOOLS) uni-fps --fps 24 -d "$(OUT)/fps24" $(call run,uni-fps) \
	  | $(AVTOOLS) extract-audio --rate 16000 -d "$(OUT)/wav16" $(call run,extract-audio) \
	  | $(AVTOOLS) mkmeta join tavgbench --captions "$(CAPTIONS)" --unmatched "$(OUT)/errors/stage3-unmatched.csv" \
	  | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage3" -o "$(OUT)/stage3.csv"
