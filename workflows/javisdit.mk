# JavisDiT's data preparation as pipes.  Run again after any interruption: what is made is not made again.
#
#   make -f workflows/javisdit.mk stage1 DATA_ROOT=datasets                    # AudioCaps, VGGSound, ... as they came
#   make -f workflows/javisdit.mk stage1 SOUNDS=sounds CAPTIONS=captions.csv   # a data set of your own
#   make -f workflows/javisdit.mk stage3 CLIPS=clips CAPTIONS=release_captions.txt
#
# stage1: sound and its caption, the picture a placeholder.  DATA_ROOT: a folder of data sets, media and metadata
# (DATASETS=audiocaps,vggsound names some); CAPTIONS: instead, a table with the columns id, audio_text.
# stage3: video, sound and caption.  CAPTIONS: TAVGBench's lines of NAME.mp4, a space, the caption.
# Both write OUT/stageN.csv and, as JavisDiT reads it, OUT/stageN/train.csv; clips and captions without a partner are
# listed in OUT/errors/; rows that fail are listed there too, and end the target beyond MAX_BAD.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: stage1 stage3

AVTOOLS  ?= avtools
OUT      ?= javisdit
MAX_BAD  ?= 5%
JOBS     ?= $(shell nproc)
CAPTIONS ?=
DATA_ROOT ?= datasets
DATASETS ?= all
SOUNDS   ?= $(DATA_ROOT)
CLIPS    ?= clips

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

stage3:
	mkdir -p "$(OUT)/errors"
	$(AVTOOLS) mkmeta scan video "$(CLIPS)" \
	  | $(AVTOOLS) probe --fmin 10 $(call run,probe) \
	  | $(AVTOOLS) uni-fps --fps 24 -d "$(OUT)/fps24" $(call run,uni-fps) \
	  | $(AVTOOLS) extract-audio --rate 16000 -d "$(OUT)/wav16" $(call run,extract-audio) \
	  | $(AVTOOLS) mkmeta join tavgbench --captions "$(CAPTIONS)" --unmatched "$(OUT)/errors/stage3-unmatched.csv" \
	  | $(AVTOOLS) mkmeta export javisdit -d "$(OUT)/stage3" -o "$(OUT)/stage3.csv"
