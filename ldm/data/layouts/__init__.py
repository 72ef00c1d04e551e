"""Where the images, classes and annotations of a data set lie on the disk, one function a layout."""
