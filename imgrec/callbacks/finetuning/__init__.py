"""Fine-tuning callbacks: freezing and gradual unfreezing."""
