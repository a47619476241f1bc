"""Texts and prompts: encoding, few-shot examples, the corpus, scoring of choices."""
