"""What a recipe's kind of data makes of training: one module per kind of feedback."""
