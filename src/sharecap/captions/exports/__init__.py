"""The formats that captions leave in, one file each, and the register of what was written where."""
