"""Default options of every command, as YAML files, and the glue that reads them (`configs.cli`)."""
