# MAESTRO: several sounds, each with its place in one video.  Run again after any interruption: every stage goes on.
#
#   make -f workflows/maestro.mk SYNTH=400 PRESET=tiny                   all of it, small, on synthetic scenes of two sources
#   make -f workflows/maestro.mk CLIPS=clips TABLE=t.csv SEPARATOR=audiosep_base_4M_steps.ckpt BASE=model.ckpt NPROC=8    cim on your clips, on VideoCrafter2
#   make -f workflows/maestro.mk CLIPS=clips TABLE=t.csv SEPARATOR=... BASE=model.ckpt WEIGHTS=checkpoint-70000           released weights
#
# CLIPS: videos to learn of and to sample for; TABLE: their classes (id, class) and what is to be separated (queries, a list; QUERIES is
# the column).  QUERIES=, or no TABLE: it is proposed from captions.  TEXT=1: captions are prompts too.
# METRICS: with ImageBind's weights also region-agreement (SCORE='--weights imagebind=imagebind_huge.pth').

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: all prepare separate video cim sample score
.DELETE_ON_ERROR:

AVTOOLS     ?= avtools
OUT         ?= maestro
CLIPS       ?= clips
TABLE       ?=
QUERIES     ?= $(if $(TABLE),queries)
SYNTH       ?=
PRESET      ?= released
CIM_SET     ?=
CIM_STEPS   ?=
VIDEO_SET   ?=
VIDEO_STEPS ?=
WEIGHTS     ?=
BASE        ?=
SEPARATOR   ?=
PARTS       ?=
LAYOUT      ?=
TEXT        ?=
SAMPLE      ?=
METRICS     ?= av-align,loudness
SCORE       ?=
NPROC       ?= 1
MAX_BAD     ?= 5%
JOBS        ?= $(shell nproc)

bad   = --on-error drop --max-bad $(MAX_BAD) --errors $(OUT)/errors/$(1).jsonl -j $(JOBS)
ranks = $(if $(filter 1,$(NPROC)),$(AVTOOLS),torchrun --nproc-per-node $(NPROC) -m avtools)
base  = $(or $(BASE),$(OUT)/video)
heard = $(or $(WEIGHTS),$(OUT)/cim)

all: score

prepare: $(OUT)/split/test.jsonl
ifdef SYNTH
$(OUT)/split/test.jsonl:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) synth -n $(SYNTH) --objects 2 --seconds 2 --size 64x48 -d "$(OUT)/synth" --to jsonl \
	  | $(AVTOOLS) mkmeta split --ratio train=0.9,test=0.1 --into "$(OUT)/split" -o "$(OUT)/table.jsonl"
else
$(OUT)/split/test.jsonl:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan video "$(CLIPS)" \
	  | $(AVTOOLS) probe --min-duration 2 --require audio $(call bad,probe) \
	  $(if $(TABLE),| $(AVTOOLS) mkmeta join table --with "$(TABLE)" --on id) \
	  | $(AVTOOLS) mkmeta split --to jsonl --ratio train=0.9,test=0.1 --into "$(OUT)/split" -o "$(OUT)/table.jsonl"
endif

# The sources of what is to be made; synthetic scenes bring theirs along.
ifdef SYNTH
separate: $(OUT)/stems.jsonl
$(OUT)/stems.jsonl: $(OUT)/split/test.jsonl
	cp $< $@
else
separate: $(OUT)/stems.jsonl
$(OUT)/stems.jsonl: $(OUT)/split/test.jsonl
	$(ranks) separate $< $(if $(QUERIES),--query-column "$(QUERIES)",--propose) $(if $(SEPARATOR),--weights "$(SEPARATOR)") -d "$(OUT)/stems" $(call bad,separate) -o $@
endif

# A video model of one's own, where there is no other.
video: $(if $(BASE),,$(OUT)/video/finished)
$(OUT)/video/finished: $(OUT)/split/test.jsonl
	$(ranks) train maestro-video "$(OUT)/split/train.jsonl" --preset $(PRESET) $(VIDEO_SET) $(if $(VIDEO_STEPS),--max-steps $(VIDEO_STEPS)) $(PARTS) \
	  --valid $< -d "$(OUT)/video" --max-bad $(MAX_BAD)
	! test -e "$(OUT)/video/requeue"
	touch $@

cim: $(OUT)/cim/finished
$(OUT)/cim/finished: $(OUT)/split/test.jsonl $(if $(BASE),,$(OUT)/video/finished)
	$(ranks) train cim "$(OUT)/split/train.jsonl" --preset $(PRESET) $(CIM_SET) $(if $(CIM_STEPS),--max-steps $(CIM_STEPS)) --weights "base=$(base)" $(PARTS) \
	  --valid $< -d "$(OUT)/cim" --max-bad $(MAX_BAD)
	! test -e "$(OUT)/cim/requeue"
	touch $@

sample: $(OUT)/made.jsonl
$(OUT)/made.jsonl: $(OUT)/stems.jsonl $(if $(BASE),,$(OUT)/video/finished) $(if $(WEIGHTS),,$(OUT)/cim/finished)
	$(ranks) sample maestro $< $(if $(SYNTH),,--group-by group) --preset $(if $(filter tiny,$(PRESET)),tiny,base) --weights "$(heard)" --weights "base=$(base)" $(PARTS) \
	  $(if $(LAYOUT),--layout $(LAYOUT)) $(if $(TEXT),,--set sampling.use_text=false) $(SAMPLE) --mux -d "$(OUT)/made" $(call bad,sample) -o $@

score: $(OUT)/score.json
$(OUT)/score.json: $(OUT)/made.jsonl
	$(AVTOOLS) score $(METRICS) $< $(SCORE) --summary $@ -o "$(OUT)/scored.jsonl" -j $(JOBS)
