# VATT: from videos with captions to scored sounds.  Run again after any interruption: every stage goes on.
#
#   make -f workflows/vatt.mk SYNTH=200 PRESET=tiny                                                        all of it, small, on synthetic clips
#   make -f workflows/vatt.mk CLIPS=clips CAPTIONS=captions.csv LANGUAGE=vicuna EVA=open_clip_model.safetensors CODEC=audiogen NPROC=4
#   make -f workflows/vatt.mk score CLIPS=clips LANGUAGE=vicuna EVA=... CODEC=... WEIGHTS=vatt_llama_T_final.ckpt CONVERTER=pytorch_model.bin
#
# prepare | features | proj | lora (the converter) | stage1 | stage2 (the sound model) | sample | score
#
# CAPTIONS: a table with the columns id, audio_text.  LANGUAGE, EVA, CODEC: --weights language=, eva02=, codec=.
# SET: settings of all that see (SET='--set frame_rate=8'); AUDIO_SET: of the sound model alone.
# POOL: a file of instructions, one a line.  PROMPT: what is asked in sampling, text | self (a caption of its own) | none.
# With released weights (WEIGHTS, CONVERTER) nothing is trained; layout of logits: SAMPLE="--set 'layout_clips=[\"clip.mp4\"]'".

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: all prepare features proj lora stage1 stage2 sample score
.DELETE_ON_ERROR:

AVTOOLS      ?= avtools
OUT          ?= vatt
CLIPS        ?= clips
CAPTIONS     ?=
SYNTH        ?=
PRESET       ?= llama
LANGUAGE     ?=
EVA          ?=
CODEC        ?=
POOL         ?=
WEIGHTS      ?=
CONVERTER    ?=
SET          ?=
AUDIO_SET    ?=
PROJ_STEPS   ?=
LORA_STEPS   ?=
STAGE1_STEPS ?=
STAGE2_STEPS ?=
PROMPT       ?= text
SAMPLE       ?=
METRICS      ?= $(if $(SYNTH),onset-f1$(comma)av-align,av-align$(comma)loudness)
SCORE        ?=
SPLIT        ?= $(if $(SYNTH),train=0.8$(comma)valid=0.1$(comma)test=0.1,train=0.96$(comma)valid=0.02$(comma)test=0.02)
NPROC        ?= 1
MAX_BAD      ?= 5%
JOBS         ?= $(shell nproc)

comma     := ,
bad       = --on-error drop --max-bad $(MAX_BAD) --errors $(OUT)/errors/$(1).jsonl -j $(JOBS)
ranks     = $(if $(filter 1,$(NPROC)),$(AVTOOLS),torchrun --nproc-per-node $(NPROC) -m avtools)
part      = $(if $(2),--weights "$(1)=$(2)")
frozen    = $(call part,codec,$(CODEC))
language  = $(call part,language,$(LANGUAGE)) $(if $(POOL),--prompt-pool "$(POOL)")
converter = $(or $(CONVERTER),$(OUT)/lora)
seen      = $(OUT)/features/train.csv

# A stage of training: $(1) its folder, $(2) the system, $(3) preset and settings, $(4) steps, $(5) weights and what it begins with.
define stage
	$(ranks) train $(2) "$(seen)" $(3) $(SET) $(if $(4),--max-steps $(4)) --valid "$(OUT)/features/valid.csv" $(5) -d "$(1)" --max-bad $(MAX_BAD)
	! test -e "$(1)/requeue"
	touch "$(1)/finished"
endef
later = $(if $(filter tiny,$(PRESET)),--preset tiny --set stage=$(2),--preset $(PRESET)-$(1))

all: score

split = $(AVTOOLS) mkmeta split --ratio $(SPLIT) --into "$(OUT)/split" -o "$(OUT)/table.csv"

prepare: $(OUT)/split/train.csv
$(OUT)/split/train.csv:
	mkdir -p "$(OUT)/errors"
ifdef SYNTH
	$(AVTOOLS) synth -n $(SYNTH) --seconds 2 --fps 24 --size 64x48 --objects 1 -d "$(OUT)/synth" | $(split)
else
	$(AVTOOLS) mkmeta scan video "$(CLIPS)" \
	  | $(AVTOOLS) probe --require audio $(call bad,probe) \
	  $(if $(CAPTIONS),| $(AVTOOLS) mkmeta join table --with "$(CAPTIONS)" --on id --take audio_text) \
	  | $(split)
endif

# The frozen encoders of pictures and of sound, once instead of in every epoch of four trainings.
features: $(seen)
$(seen): $(OUT)/split/train.csv
	mkdir -p "$(OUT)/features"
	$(ranks) features vatt "$(OUT)/split/valid.csv" --preset $(PRESET) $(SET) $(call part,eva02,$(EVA)) $(frozen) -d "$(OUT)/features/valid" $(call bad,features-valid) \
	  -o "$(OUT)/features/valid.csv"
	$(ranks) features vatt $< --preset $(PRESET) $(SET) $(call part,eva02,$(EVA)) $(frozen) -d "$(OUT)/features/train" $(call bad,features) -o $@

proj: $(OUT)/proj/finished
$(OUT)/proj/finished: $(seen)
	$(call stage,$(OUT)/proj,vatt-converter,--preset $(PRESET) --set stage=proj,$(PROJ_STEPS),$(language))

lora: $(OUT)/lora/finished
$(OUT)/lora/finished: $(OUT)/proj/finished
	$(call stage,$(OUT)/lora,vatt-converter,$(call later,lora,lora),$(LORA_STEPS),$(language) --init "$(OUT)/proj")

stage1: $(OUT)/stage1/finished
$(OUT)/stage1/finished: $(if $(CONVERTER),$(seen),$(OUT)/lora/finished)
	$(call stage,$(OUT)/stage1,vatt-audio,--preset $(PRESET) $(AUDIO_SET),$(STAGE1_STEPS),$(language) $(frozen) --weights "converter=$(converter)")

stage2: $(OUT)/stage2/finished
$(OUT)/stage2/finished: $(OUT)/stage1/finished
	$(call stage,$(OUT)/stage2,vatt-audio,$(call later,stage2,2) $(AUDIO_SET),$(STAGE2_STEPS),$(language) $(frozen) --weights "converter=$(converter)" --init "$(OUT)/stage1")

# The language model's part of released weights is in their .ckpt; CONVERTER is for those that lack it.
sample: $(OUT)/made.csv
$(OUT)/made.csv: $(OUT)/split/train.csv $(if $(WEIGHTS),,$(OUT)/stage2/finished)
	$(ranks) sample vatt "$(OUT)/split/test.csv" --weights "$(or $(WEIGHTS),$(OUT)/stage2)" $(call part,converter,$(if $(WEIGHTS),$(CONVERTER),$(converter))) \
	  $(language) $(call part,eva02,$(EVA)) $(frozen) --set sampling.prompt=$(PROMPT) $(SAMPLE) --mux -d "$(OUT)/made" $(call bad,sample) -o $@

score: $(OUT)/score.json
$(OUT)/score.json: $(OUT)/made.csv
	$(AVTOOLS) score $(METRICS) $< $(SCORE) --summary $@ -o "$(OUT)/scored.csv" -j $(JOBS)
