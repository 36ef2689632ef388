"""AVSyncD: a video from its first frame and its sound."""
