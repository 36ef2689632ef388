# VTA-LDM: from a folder of videos to scored samples.  Run again after any interruption: every stage goes on.
#
#   make -f workflows/vta-ldm.mk CLIPS=clips                        prepare | features | train | sample | score
#   make -f workflows/vta-ldm.mk train CLIPS=clips PRESET=tiny      up to training, small
#   make -f workflows/vta-ldm.mk score CLIPS=clips WEIGHTS=hf:ariesssxu/vta-ldm-clip4clip-v-large    released weights
#   make -f workflows/vta-ldm.mk train CLIPS=clips NPROC=8          on 8 GPUs
#
# CAPTIONS: a table with the columns id, text (only for conditions with text: SET='--set condition=text+video').

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: all prepare features train sample score
.DELETE_ON_ERROR:

AVTOOLS  ?= avtools
CLIPS    ?= clips
OUT      ?= vta-ldm
PRESET   ?= large
SET      ?=
CACHE    ?=
CAPTIONS ?=
WEIGHTS  ?=
STEPS    ?=
NPROC    ?= 1
MAX_BAD  ?= 5%
JOBS     ?= $(shell nproc)

bad   = --on-error drop --max-bad $(MAX_BAD) --errors $(OUT)/errors/$(1).jsonl -j $(JOBS)
ranks = $(if $(filter 1,$(NPROC)),$(AVTOOLS),torchrun --nproc-per-node $(NPROC) -m avtools)
join  = $(if $(CAPTIONS),| $(AVTOOLS) mkmeta join table --with "$(CAPTIONS)" --on id --take text)

all: score

prepare: $(OUT)/split/train.csv
$(OUT)/split/train.csv:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan video "$(CLIPS)" \
	  | $(AVTOOLS) probe --fmin 10 --require audio $(call bad,probe) \
	  | $(AVTOOLS) uni-fps --fps 24 -d "$(OUT)/fps24" $(call bad,uni-fps) \
	  | $(AVTOOLS) extract-audio --rate 16000 -d "$(OUT)/wav16" $(call bad,extract-audio) \
	  $(join) \
	  | $(AVTOOLS) mkmeta split --ratio train=0.96,valid=0.02,test=0.02 --into "$(OUT)/split" -o "$(OUT)/table.csv"

# CACHE=1: frozen encoders and sound moments once instead of every epoch (random_crop is then off).
table = $(if $(CACHE),$(OUT)/features.csv,$(OUT)/split/train.csv)
features: $(OUT)/features.csv
$(OUT)/features.csv: $(OUT)/split/train.csv
	$(ranks) features vta-ldm $< --preset $(PRESET) $(SET) -d "$(OUT)/features" $(call bad,features) -o $@

train: $(OUT)/run/finished
$(OUT)/run/finished: $(table)
	$(ranks) train vta-ldm $< --preset $(PRESET) $(SET) $(if $(CACHE),--set random_crop=false) \
	  $(if $(STEPS),--max-steps $(STEPS)) --valid "$(OUT)/split/valid.csv" -d "$(OUT)/run" --max-bad $(MAX_BAD)
	! test -e "$(OUT)/run/requeue"
	touch $@

sample: $(OUT)/made.csv
$(OUT)/made.csv: $(OUT)/split/train.csv $(if $(WEIGHTS),,$(OUT)/run/finished)
	$(ranks) sample vta-ldm "$(OUT)/split/test.csv" --weights "$(or $(WEIGHTS),$(OUT)/run)" --mux -d "$(OUT)/made" $(call bad,sample) -o $@

score: $(OUT)/score.json
$(OUT)/score.json: $(OUT)/made.csv
	$(AVTOOLS) score av-align,loudness $< --summary $@ -o "$(OUT)/scored.csv" -j $(JOBS)
