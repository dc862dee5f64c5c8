"""Where pictures come from: a folder, an archive or a known face data set, with what is known of each picture."""
