"""From pictures to a data set of images at the size that is trained on."""
