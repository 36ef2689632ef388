"""I3D, the network of FVD: a TorchScript file."""
