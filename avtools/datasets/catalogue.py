"""The data sets whose captions `mkmeta join` knows.  One entry is all that a further one needs."""

import dataclasses

UNSTATED = "not stated; ask its authors"


@dataclasses.dataclass(frozen=True)
class File:
    """A metadata file: where it lies below the data set's folder (glob patterns), and what reads it.

    `read` names a function of :mod:`avtools.datasets.readers`.  `split`: the official split that all of its
    clips are in, where the file itself does not tell.  `subset`: see :attr:`DataSet.subsets`.
    """

    read: str
    patterns: tuple[str, ...]
    split: str | None = None
    subset: str = ""


@dataclasses.dataclass(frozen=True)
class Companion:
    """A file that a reader needs beside the captions; it lies beside them or below the data set's folder."""

    name: str
    patterns: tuple[str, ...]
    required: bool = True


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set: what it is, where its metadata lie, what its captions describe.

    `folders`: names of its folder below --data-root, as :func:`avtools.datasets.keys.folder_key`.  `hints`: folders
    of its media that say no less.  `several`: a clip has several captions.  `subsets`: name -> folders, for parts
    whose ids collide.  `numbers`: subsets with ids so plain that a folder of another data set speaks against them.
    `audioset`: clips (or subsets) that are AudioSet's, where a YouTube id has one segment.  `clips`: stems spell
    YouTube clips, too.  `first`: of several captions of a clip the first one counts.  `tails`: what its files' names may
    have at their end beyond the id.  `rule`: a function of :mod:`avtools.datasets.readers` that makes the caption of a stem,
    where there is no metadata.  `get`: where its metadata can be had.
    """

    name: str
    title: str
    source: str
    licence: str
    layout: str
    folders: tuple[str, ...]
    describes: tuple[str, ...]
    files: tuple[File, ...] = ()
    companions: tuple[Companion, ...] = ()
    hints: tuple[str, ...] = ()
    several: bool = False
    subsets: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    audioset: bool | tuple[str, ...] = False
    clips: bool = False
    first: bool = False
    tails: tuple[str, ...] = ()
    rule: str = ""
    get: str = ""


SOUND, CLIP, BOTH = ("audio_text",), ("text",), ("text", "audio_text")


def _lists(read: str) -> tuple[File, ...]:
    """train.txt and test.txt with a path a line."""
    return tuple(File(read, (f"{split}.txt", f"lists/{split}.txt"), split) for split in ("train", "test"))


_CLASS_MAPPING = (Companion("classes", ("class_mapping.json",), required=False),)

#: In the order of precedence where a clip stands in several: captions that people wrote, then made ones, then labels.
CATALOGUE: tuple[DataSet, ...] = (
    DataSet(
        name="audiocaps",
        title="AudioCaps",
        source="https://github.com/cdjkim/audiocaps",
        licence="MIT (captions)",
        layout="[dataset/]{train,val,test}.csv, or dataset/metadata/audiocaps/datafiles/*.json; media: [Y]ID[_START[_END]]",
        folders=("audiocaps",),
        describes=SOUND,
        several=True,
        audioset=True,
        files=(
            File("audiocaps_csv", ("train.csv", "dataset/train.csv", "metadata/train.csv"), "train"),
            File("audiocaps_csv", ("val.csv", "dataset/val.csv", "metadata/val.csv"), "val"),
            File("audiocaps_csv", ("test.csv", "dataset/test.csv", "metadata/test.csv"), "test"),
            File("audiocaps_json", ("audiocaps_train*.json", "dataset/metadata/audiocaps/datafiles/audiocaps_train*.json"), "train"),
            File("audiocaps_json", ("audiocaps_val*.json", "dataset/metadata/audiocaps/datafiles/audiocaps_val*.json"), "val"),
            File(
                "audiocaps_json",
                ("audiocaps_test*.json", "dataset/metadata/audiocaps/testset_subset/audiocaps_test*.json", "dataset/metadata/audiocaps/*/audiocaps_test*.json"),
                "test",
            ),
        ),
        get="https://github.com/cdjkim/audiocaps (dataset/*.csv)",
    ),
    DataSet(
        name="clotho",
        title="Clotho",
        source="https://zenodo.org/records/4783391",
        licence="Tampere University licence, non-commercial (captions); Creative Commons by file (sounds)",
        layout="clotho_captions_{development,validation,evaluation}.csv; media: FILE_NAME",
        folders=("clotho", "clothov2", "clothov2.1", "clothodataset"),
        describes=SOUND,
        several=True,
        files=tuple(
            File("clotho", (f"clotho_captions_{split}.csv", f"csv/clotho_captions_{split}.csv"), split)
            for split in ("development", "validation", "evaluation")
        ),
        get="https://zenodo.org/records/4783391 (clotho_captions_*.csv)",
    ),
    DataSet(
        name="macs",
        title="MACS: Multi-Annotator Captioned Soundscapes",
        source="https://zenodo.org/records/5114771",
        licence="Tampere University licence, non-commercial",
        layout="MACS.yaml and MACS_competence.csv; media: FILENAME; captions by their annotator's competence, highest first",
        folders=("macs",),
        describes=SOUND,
        several=True,
        files=(File("macs", ("MACS.yaml", "annotations/MACS.yaml")),),
        companions=(Companion("competence", ("MACS_competence.csv",)),),
        get="https://zenodo.org/records/5114771 (MACS.yaml, MACS_competence.csv)",
    ),
    DataSet(
        name="tavgbench",
        title="TAVGBench",
        source="https://github.com/OpenNLPLab/TAVGBench",
        licence=UNSTATED,
        layout="release_captions.txt, lines of NAME.mp4, a space, the caption; media: NAME",
        folders=("tavgbench",),
        describes=CLIP,
        clips=True,
        first=True,
        files=(File("tavgbench", ("release_captions.txt", "*/release_captions.txt")),),
        get="https://github.com/OpenNLPLab/TAVGBench (release_captions.txt)",
    ),
    DataSet(
        name="wavcaps",
        title="WavCaps",
        source="https://huggingface.co/datasets/cvssp/WavCaps",
        licence="academic use only",
        layout="json_files/[*/]{as,bbc,sb,fsd}_final.json; media: ID below AudioSet_SL, BBC_Sound_Effects, SoundBible, FreeSound (or *_flac)",
        folders=("wavcaps",),
        describes=SOUND,
        audioset=("as",),
        subsets={
            "as": ("audiosetsl", "audiosetslflac"),
            "bbc": ("bbcsoundeffects", "bbcsoundeffectsflac"),
            "sb": ("soundbible", "soundbibleflac"),
            "fsd": ("freesound", "freesoundflac"),
        },
        numbers=("bbc", "sb", "fsd"),
        files=(
            File("wavcaps_clips", ("as_final.json", "json_files/as_final.json", "json_files/*/as_final.json"), subset="as"),
            *(
                File("wavcaps", (f"{subset}_final.json", f"json_files/{subset}_final.json", f"json_files/*/{subset}_final.json"), subset=subset)
                for subset in ("bbc", "sb", "fsd")
            ),
        ),
        get="https://huggingface.co/datasets/cvssp/WavCaps (json_files)",
    ),
    DataSet(
        name="v2a-instruction",
        title="V2A instruction captions of VGGSound and AudioSet (VATT)",
        source="https://github.com/DragonLiu1995/video-to-audio-through-text",
        licence=UNSTATED,
        layout="*v2a_instruction*.json, a list of {video_path, output, split, caption}, or a map of id to caption; media: ID_START",
        folders=("v2ainstruction", "v2ainstructions", "vatt"),
        describes=SOUND,
        several=True,
        clips=True,
        files=(File("v2a_instruction", ("*v2a_instruction*.json", "*v2a-instruction*.json")),),
        get="https://github.com/DragonLiu1995/video-to-audio-through-text (vggsound_v2a_instruction.json)",
    ),
    DataSet(
        name="avsync15",
        title="AVSync15",
        source="https://lzhangbj.github.io/projects/asva/asva.html",
        licence=UNSTATED,
        layout="train.txt, test.txt (CLASS/NAME.mp4 a line), class_mapping.json if there; media: NAME",
        folders=("avsync15",),
        describes=CLIP,
        files=_lists("path_list"),
        companions=_CLASS_MAPPING,
        get="https://lzhangbj.github.io/projects/asva/asva.html",
    ),
    DataSet(
        name="landscapes",
        title="Landscapes",
        source="https://kuai-lab.github.io/eccv2022sound/",
        licence=UNSTATED,
        layout="train.txt, test.txt (CLASS/NAME.mp4 a line), or landscape.csv (ytid, start_time, class, set); media: NAME, or ID_START",
        folders=("landscapes", "landscape"),
        describes=CLIP,
        clips=True,
        files=(*_lists("path_list"), File("landscape_csv", ("landscape.csv",))),
        companions=_CLASS_MAPPING,
        get="https://kuai-lab.github.io/eccv2022sound/ (landscape.csv)",
    ),
    DataSet(
        name="greatesthits",
        title="The Greatest Hits",
        source="https://andrewowens.com/vis/",
        licence=UNSTATED,
        layout="train.txt, test.txt (a NAME a line); media: NAME, NAME_denoised, NAME_denoised_thumb, NAME_mic, NAME_thumb",
        folders=("greatesthits", "thegreatesthits", "visdata"),
        describes=CLIP,
        tails=("_denoised_thumb", "_denoised", "_thumb", "_mic"),
        files=_lists("greatest_hits"),
        get="https://andrewowens.com/vis/",
    ),
    DataSet(
        name="vggss",
        title="VGG-SS: VGG Sound Source",
        source="https://www.robots.ox.ac.uk/~vgg/research/lvs/",
        licence=UNSTATED,
        layout="vggss.json ([{file, class}]), or train.txt, test.txt (CLASS/NAME.mp4 a line); media: ID_START",
        folders=("vggss",),
        describes=BOTH,
        clips=True,
        files=(File("vggss_json", ("vggss.json", "metadata/vggss.json")), *_lists("clip_list")),
        companions=_CLASS_MAPPING,
        get="https://www.robots.ox.ac.uk/~vgg/research/lvs/ (vggss.json)",
    ),
    DataSet(
        name="vggsound",
        title="VGGSound",
        source="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
        licence="CC BY 4.0",
        layout="vggsound.csv (id, start, label, split), or {train,val,test}.csv (NAME.mp4, label), or *.tsv (id, label); media: ID_START",
        folders=("vggsound",),
        describes=BOTH,
        files=(
            File("vggsound_csv", ("vggsound.csv", "*/vggsound.csv")),
            *(File("vggsound_csv", (f"{split}.csv", f"data/{split}.csv"), split) for split in ("train", "val", "test")),
            *(File("vggsound_tsv", (f"*{split}.tsv", f"sets/*{split}.tsv"), split) for split in ("train", "val", "test")),
            File("vggsound_tsv", ("vggsound.tsv",)),
        ),
        get="https://www.robots.ox.ac.uk/~vgg/data/vggsound/vggsound.csv",
    ),
    DataSet(
        name="esc50",
        title="ESC-50",
        source="https://github.com/karolpiczak/ESC-50",
        licence="CC BY-NC 3.0",
        layout="meta/esc50.csv; media: FILENAME",
        folders=("esc50", "esc50master"),
        describes=SOUND,
        files=(File("esc50", ("meta/esc50.csv", "esc50.csv")),),
        get="https://github.com/karolpiczak/ESC-50 (meta/esc50.csv)",
    ),
    DataSet(
        name="urbansound8k",
        title="UrbanSound8K",
        source="https://urbansounddataset.weebly.com/urbansound8k.html",
        licence="CC BY-NC 3.0",
        layout="metadata/UrbanSound8K.csv; media: SLICE_FILE_NAME (below audio/fold*)",
        folders=("urbansound8k",),
        describes=SOUND,
        files=(File("urbansound8k", ("metadata/UrbanSound8K.csv", "UrbanSound8K.csv")),),
        get="https://urbansounddataset.weebly.com/urbansound8k.html (metadata/UrbanSound8K.csv)",
    ),
    DataSet(
        name="musicinstrument",
        title="Musical Instrument's Sound Dataset",
        source="https://www.kaggle.com/datasets/soumendraprasad/musical-instruments-sound-dataset",
        licence=UNSTATED,
        layout="[data/]Metadata_{Train,Test}.csv (FileName, Class); media: FILENAME",
        folders=("musicinstrument", "musicinstruments", "musicalinstruments", "musicalinstrumentssounddataset"),
        describes=SOUND,
        files=(
            File("music_instrument", ("Metadata_Train.csv", "data/Metadata_Train.csv"), "train"),
            File("music_instrument", ("Metadata_Test.csv", "data/Metadata_Test.csv"), "test"),
        ),
        get="https://www.kaggle.com/datasets/soumendraprasad/musical-instruments-sound-dataset (Metadata_*.csv)",
    ),
    DataSet(
        name="gtzan",
        title="GTZAN genres",
        source="http://marsyas.info/downloads/datasets.html",
        licence=UNSTATED,
        layout="no metadata; media: GENRE.NNNNN",
        folders=("gtzan",),
        describes=SOUND,
        rule="gtzan",
        hints=("genresoriginal",),
    ),
    DataSet(
        name="audioset",
        title="AudioSet",
        source="https://research.google.com/audioset/",
        licence="CC BY 4.0",
        layout="{balanced_train,unbalanced_train,eval}_segments.csv and class_labels_indices.csv; media: [Y]ID[_START[_END]]",
        folders=("audioset",),
        hints=("baltrain", "balancedtrain", "balancedtrainsegments", "unbaltrain", "unbalancedtrain", "unbalancedtrainsegments", "evalsegments"),
        describes=SOUND,
        audioset=True,
        files=tuple(
            File("audioset", (f"{split}_segments.csv", f"*/{split}_segments.csv"), split) for split in ("balanced_train", "unbalanced_train", "eval")
        ),
        companions=(Companion("labels", ("class_labels_indices.csv", "audioset_labels.csv")),),
        get="https://research.google.com/audioset/download.html (*_segments.csv, class_labels_indices.csv)",
    ),
)
