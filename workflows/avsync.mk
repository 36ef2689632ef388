# AVSyncD and its judge, the AVSync classifier: from clips to scores, three clips of each video as the paper has it.
# Run again after any interruption: every stage goes on.
#
#   make -f workflows/avsync.mk SYNTH=400 PRESET=tiny JUDGE_PRESET=tiny          all of it, small, on synthetic clips
#   make -f workflows/avsync.mk DATA=AVSync15 JUDGE_DATA=VGGSS NPROC=8           both trained on the data sets' own layout
#   make -f workflows/avsync.mk DATA=AVSync15 WEIGHTS=checkpoint-37000 JUDGE=checkpoint-40000    released checkpoints
#
# DATA, JUDGE_DATA: folders of videos/, train.txt, test.txt, class_mapping.json; the judge needs videos of 6 s and more.
# METRICS: with ImageBind's and I3D's weights also alignsync,ia,it,fvd,fid (SCORE='--weights imagebind=... --weights fvd=...').

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: all prepare judge train sample score accuracy
.DELETE_ON_ERROR:

AVTOOLS      ?= avtools
OUT          ?= avsync
DATA         ?=
JUDGE_DATA   ?= $(DATA)
SYNTH        ?=
PRESET       ?= released
JUDGE_PRESET ?= released
SET          ?=
JUDGE_SET    ?=
STEPS        ?=
JUDGE_STEPS  ?=
WEIGHTS      ?=
JUDGE        ?=
METRICS      ?= avsync,relsync
PROTOCOL     ?= asva
SCORE        ?=
SAMPLE       ?=
CLIPS        ?= 3
NPROC        ?= 1
MAX_BAD      ?= 5%
JOBS         ?= $(shell nproc)

bad   = --on-error drop --max-bad $(MAX_BAD) --errors $(OUT)/errors/$(1).jsonl -j $(JOBS)
ranks = $(if $(filter 1,$(NPROC)),$(AVTOOLS),torchrun --nproc-per-node $(NPROC) -m avtools)
judge = $(or $(JUDGE),$(OUT)/judge)

all: score accuracy

# The tables of a data set: $(1) where it lies, $(2) the table's name.
define tables
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta import avsyncd "$(1)" \
	  | $(AVTOOLS) probe --min-duration 2 --require audio $(call bad,probe-$(2)) -o "$(OUT)/$(2).csv"
	$(AVTOOLS) mkmeta filter "$(OUT)/$(2).csv" --where "split == 'train'" -o "$(OUT)/$(2)-train.csv"
	$(AVTOOLS) mkmeta filter "$(OUT)/$(2).csv" --where "split == 'test'" -o "$(OUT)/$(2)-test.csv"
endef

prepare: $(OUT)/clips-test.csv $(OUT)/judged-test.csv
ifdef SYNTH
$(OUT)/clips-test.csv:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) synth -n $(SYNTH) --seconds 6 --fps 12 --size 64x48 -d "$(OUT)/synth" \
	  | $(AVTOOLS) mkmeta split --ratio train=0.8,test=0.2 --into "$(OUT)/split" -o "$(OUT)/clips.csv"
	cp "$(OUT)/split/train.csv" "$(OUT)/clips-train.csv"
	cp "$(OUT)/split/test.csv" $@
$(OUT)/judged-test.csv: $(OUT)/clips-test.csv
	cp "$(OUT)/clips-train.csv" "$(OUT)/judged-train.csv"
	cp $< $@
else
$(OUT)/clips-test.csv:
	$(call tables,$(DATA),clips)
$(OUT)/judged-test.csv:
	$(call tables,$(JUDGE_DATA),judged)
endif

judge: $(OUT)/judge/finished
$(OUT)/judge/finished: $(OUT)/judged-test.csv
	$(ranks) train avsync "$(OUT)/judged-train.csv" --preset $(JUDGE_PRESET) $(JUDGE_SET) $(if $(JUDGE_STEPS),--max-steps $(JUDGE_STEPS)) \
	  --valid $< -d "$(OUT)/judge" --max-bad $(MAX_BAD)
	! test -e "$(OUT)/judge/requeue"
	touch $@

train: $(OUT)/run/finished
$(OUT)/run/finished: $(OUT)/clips-test.csv
	$(ranks) train avsyncd "$(OUT)/clips-train.csv" --preset $(PRESET) $(SET) $(if $(STEPS),--max-steps $(STEPS)) \
	  --valid $< -d "$(OUT)/run" --max-bad $(MAX_BAD)
	! test -e "$(OUT)/run/requeue"
	touch $@

sample: $(OUT)/made.csv
$(OUT)/made.csv: $(OUT)/clips-test.csv $(if $(WEIGHTS),,$(OUT)/run/finished)
	$(ranks) sample avsyncd $< --weights "$(or $(WEIGHTS),$(OUT)/run)" --samples-per-row $(CLIPS) --mux $(SAMPLE) -d "$(OUT)/made" $(call bad,sample) -o $@

score: $(OUT)/score.json
$(OUT)/score.json: $(OUT)/made.csv $(if $(JUDGE),,$(OUT)/judge/finished)
	$(ranks) score $(METRICS) $< --protocol $(PROTOCOL) --weights "avsync=$(judge)" $(SCORE) --summary $@ -o "$(OUT)/scored.csv" $(call bad,score)

# How well the judge itself finds the right one of 31 shifts, both ways; chance is 35.5 %.
accuracy: $(OUT)/accuracy.json
$(OUT)/accuracy.json: $(OUT)/judged-test.csv $(if $(JUDGE),,$(OUT)/judge/finished)
	$(ranks) score sync-accuracy $< --weights "sync-accuracy=$(judge)" --summary $@ -o "$(OUT)/accurate.csv" $(call bad,accuracy)
