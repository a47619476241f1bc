"""From a model spec to a Model whose heads can be read and switched off."""
