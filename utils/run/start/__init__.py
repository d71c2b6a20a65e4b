"""What a run begins with that comes from elsewhere: a base model, or another run's weights or M."""
