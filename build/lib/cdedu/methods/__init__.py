"""Other ways to few steps: guidance, progressive and adversarial distillation, distribution matching, latents."""
