"""Whatever a person drew, in whatever tool, read into `Mark`s."""
