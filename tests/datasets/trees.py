"""Small trees of metadata in the documented layout of each data set; none of it is the data sets' own."""

import json
import pathlib

A, B, C, D = "-aBcDeFgH_1", "Yx_34567-90", "00000000012", "zZzZzZzZzZ_"  # YouTube ids, odd on purpose

TREES = {
    "audiocaps": {
        "AudioCaps/dataset/train.csv": f'audiocap_id,youtube_id,start_time,caption\n1,{A},30,"A dog barks, twice"\n',
        "AudioCaps/dataset/val.csv": "audiocap_id,youtube_id,start_time,caption\n" + "".join(f"{k},{B},0,Caption {k}\n" for k in range(1, 6)),
        "AudioCaps/dataset/metadata/audiocaps/datafiles/audiocaps_train_label.json": json.dumps({"data": [{"wav": f"x/Y{C}.wav", "caption": "Rain falls"}]}),
    },
    "clotho": {
        "clotho/clotho_captions_development.csv": 'file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n" 00123.wav",One,"Two, too",Three,Four,Five\n',
        "clotho/clotho_captions_evaluation.csv": "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\nBird & Bee.aif.wav,A,B,C,D,E\n",
    },
    "macs": {
        "MACS/MACS.yaml": (
            "files:\n- filename: airport-a.wav\n  annotations:\n  - annotator_id: 3\n    sentence: low\n  - annotator_id: 44\n    sentence: no\n"
            "    tags:\n    - x\n  - annotator_id: 5\n    sentence: high\n"
        ),
        "MACS/MACS_competence.csv": "3\t0.1\n44\t0.5\n5\t0.93\n",
    },
    "tavgbench": {"TAVGBench/release_captions.txt": f"{A}_30_40.mp4 A dog, in words.\n"},
    "wavcaps": {
        "WavCaps/json_files/as_final.json": json.dumps({"data": [{"id": f"Y{D}.wav", "caption": "AudioSet"}]}),
        "WavCaps/json_files/BBC_Sound_Effects/bbc_final.json": json.dumps({"data": [{"id": "7", "caption": "BBC 7"}, {"id": "NHU05104048", "caption": "Birds"}]}),
        "WavCaps/json_files/fsd_final.json": json.dumps({"data": [{"id": "7", "caption": "FreeSound 7"}, {"id": 12, "caption": "FreeSound 12"}]}),
        "WavCaps/json_files/sb_final.json": json.dumps({"data": [{"id": "7", "caption": "SoundBible 7"}]}),
    },
    "v2a-instruction": {
        "vatt/vggsound_v2a_instruction.json": json.dumps(
            [
                {"input": "", "video_path": f"{A}_000030", "dataset": "vggsound", "output": "Barking", "split": "train"},
                {"input": "", "video_path": f"{A}_000030", "dataset": "vggsound", "output": "A dog is seen", "split": "train", "caption": True},
                {"input": "", "video_path": f"/h5/Y{B}.h5", "dataset": "audioset", "output": "Waves", "split": "test"},
            ]
        )
    },
    "avsync15": {
        "AVSync15/train.txt": f"playing_violin__fiddle/{A}_000030_000040_1_3.mp4\nlions_roaring/lion.mp4,0.5,2.5\n",
        "AVSync15/test.txt": f"playing_violin__fiddle/{A}_000030_000040_2_4.mp4\n",
        "AVSync15/class_mapping.json": json.dumps({"lions_roaring": "lions, roaring"}),
    },
    "landscapes": {
        "Landscapes/train.txt": "wind_noise/w1.mp4\n",
        "Landscapes/landscape.csv": f"ytid,start_time,class,set\n{A},180,wind noise,test\n{A},180,wind noise,test\n",
    },
    "greatesthits": {"TheGreatestHits/test.txt": "2015-02-16-16-49-06_denoised_thumb.mp4\n"},
    "vggss": {
        "VGG-SS/vggss.json": json.dumps([{"file": f"{A}_000030", "class": "dog barking", "bbox": []}]),
        "VGG-SS/test.txt": f"dog_barking/{A}_000030.mp4\n",
    },
    "vggsound": {
        "VGGSound/vggsound.csv": f'{A},30,"dog, barking",train\n{B},0,NA,test\n',
        "VGGSound/test.csv": f"{B}_000000.mp4,NA\n{C}_000177.mp4,nan\n",
        "VGGSound/vgg-val.tsv": f"id\tlabel\n{D}_000005\tplaying violin, fiddle\n",
    },
    "esc50": {"ESC-50-master/meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,door_wood_knock,True,100032,A\n"},
    "urbansound8k": {
        "UrbanSound8K/metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,class\n100032-3-0-0.wav,100032,0,0.3,1,5,3,dog_bark\n"
    },
    "musicinstrument": {
        "MusicInstrument/data/Metadata_Train.csv": "FileName,Class\nG1-84103 Guitar.wav,Sound_Guitar\n",
        "MusicInstrument/data/Metadata_Test.csv": "FileName,Class\nviolin00.wav,Sound_Violin\n",
    },
    "gtzan": {"GTZAN/data/genres_original/metal/nothing.txt": ""},
    "audioset": {
        "audioset/class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n',
        "audioset/balanced_train_segments.csv": (
            "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=1, num_segs=1, num_unique_labels=2, num_positive_labels=2\n"
            f'# YTID, start_seconds, end_seconds, positive_labels\n{A}, 30.000, 40.000, "/m/09x0r,/m/05zppz"\n'
        ),
        "audioset/eval_segments.csv": f'# YTID, start_seconds, end_seconds, positive_labels\n{C}, 0.000, 10.000, "/m/09x0r,/m/unknown"\n',
    },
}

#: data set -> (a media file, the columns that it gets)
FOUND = {
    "audiocaps": [
        (f"Y{A}.wav", {"audio_text": "A dog barks, twice", "split": "train"}),
        (f"{B}_0.000_10.000.flac", {"audio_text": "Caption 1", "split": "val"}),
        (f"{C}.wav", {"audio_text": "Rain falls", "split": "train"}),
    ],
    "clotho": [(" 00123.wav", {"audio_text": "One", "split": "development"}), ("Bird & Bee.aif.flac", {"audio_text": "A", "split": "evaluation"})],
    "macs": [("airport-a.wav", {"audio_text": "high"})],
    "tavgbench": [(f"{A}_30_40.mp4", {"text": "A dog, in words."})],
    "wavcaps": [
        (f"AudioSet_SL_flac/Y{D}.flac", {"audio_text": "AudioSet"}),
        ("BBC_Sound_Effects_flac/7.flac", {"audio_text": "BBC 7"}),
        ("FreeSound/7.wav", {"audio_text": "FreeSound 7"}),
        ("SoundBible_flac/7.flac", {"audio_text": "SoundBible 7"}),
        ("x/12.flac", {"audio_text": "FreeSound 12"}),
        ("NHU05104048.flac", {"audio_text": "Birds"}),
    ],
    "v2a-instruction": [
        (f"{A}_000030.mp4", {"text": "A dog is seen", "audio_text": "Barking", "split": "train"}),
        (f"{B}.wav", {"text": "", "audio_text": "Waves", "split": "test"}),
    ],
    "avsync15": [
        (f"{A}_000030_000040_1_3.mp4", {"text": "playing violin fiddle", "split": "train"}),
        (f"{A}_000030_000040_2_4.mp4", {"text": "playing violin fiddle", "split": "test"}),
        ("lion.mp4", {"text": "lions, roaring", "split": "train"}),
    ],
    "landscapes": [("w1.mp4", {"text": "wind noise", "split": "train"}), (f"{A}_180.mp4", {"text": "wind noise", "split": "test"})],
    "greatesthits": [
        (f"2015-02-16-16-49-06{tail}.mp4", {"text": "hitting with a stick", "split": "test"}) for tail in ("", "_denoised", "_thumb", "_mic", "_denoised_thumb")
    ],
    "vggss": [(f"{A}_000030.mp4", {"text": "dog barking", "split": "test"})],
    "vggsound": [
        (f"{A}_000030.mp4", {"text": "dog, barking", "split": "train"}),
        (f"{B}_000000.mp4", {"text": "NA", "split": "test"}),
        (f"{C}_000177.mp4", {"text": "nan", "split": "test"}),
        (f"{D}_000005.mp4", {"text": "playing violin, fiddle", "split": "val"}),
    ],
    "esc50": [("1-100032-A-0.wav", {"audio_text": "door wood knock"})],
    "urbansound8k": [("fold5/100032-3-0-0.wav", {"audio_text": "dog bark"})],
    "musicinstrument": [("G1-84103 Guitar.wav", {"audio_text": "Sound Guitar", "split": "train"}), ("violin00.wav", {"audio_text": "Sound Violin", "split": "test"})],
    "gtzan": [("metal/metal.00042.wav", {"audio_text": "music metal"})],
    "audioset": [(f"Y{A}.wav", {"audio_text": "speech, male speech, man speaking", "split": "balanced_train"})],
}


def plant(root: pathlib.Path, *names: str) -> pathlib.Path:
    """Write the trees of these data sets below `root`."""
    for name in names or TREES:
        for place, content in TREES[name].items():
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    return root
