"""The artifact: everything needed to predict, verify, fine-tune and deploy, and no code."""
