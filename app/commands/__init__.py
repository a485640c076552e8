"""The commands of `fovea`, one file a group. `app.cli` puts them together."""
