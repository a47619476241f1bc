"""How a measurement is set up: settings, chosen heads, replacements, interim analyses."""
