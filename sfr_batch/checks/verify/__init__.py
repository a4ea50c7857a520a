"""The preflight: is this the right model, and does it compute right on this device. `preflight.verify` runs it."""
