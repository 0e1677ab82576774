"""What tests of several subjects use: artifacts, KMS and kmstool, image files, paths, processes."""
