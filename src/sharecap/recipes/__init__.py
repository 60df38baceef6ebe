"""The paper's runs as Python functions: a recipe returns a config, a variant changes another's result."""
