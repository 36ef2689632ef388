"""The augmentations' names; importing this loads nothing."""

GROUPS = ("video-spatial", "video-temporal", "audio-spatial", "audio-temporal")

#: Name -> (group, what it does, the pool that it draws from).
OPERATIONS = {
    "random-mask": ("video-spatial", "squares of a grid turn grey in all frames", None),
    "add-masklet": ("video-spatial", "an object cut out of another video moves through", "masklets"),
    "video-shift": ("video-temporal", "the pictures come later, the last ones first", None),
    "stall": ("video-temporal", "one picture stays, the rest come later", None),
    "add-source": ("audio-spatial", "another sound is heard as well", "stems"),
    "delete-source": ("audio-spatial", "one source of the sound, or all, is gone for a while", None),
    "volume": ("audio-spatial", "a part gets louder, softer or both", None),
    "audio-shift": ("audio-temporal", "the sound comes later, its end first", None),
    "mute": ("audio-temporal", "a silence comes in, the rest later", None),
    "repeat": ("audio-temporal", "a part is heard three times, the rest later", None),
    "speed": ("audio-temporal", "a part at half or double speed, at its pitch", None),
}
