"""Where the files of a model are, how they come to this machine, and the hashes that say which they are."""
