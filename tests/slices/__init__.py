"""Small but honest trainings of every kind of feedback, run through one engine: resume and equality are tested on all."""
