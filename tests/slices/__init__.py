"""Small, honest trainings from every kind of feedback through one engine; resume and equality are tested on all."""
