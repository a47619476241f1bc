"""The probe `example`: one text, token by token."""
