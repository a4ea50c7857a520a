"""The preflight: is the model the right one, does it compute correctly on this device. See `preflight.verify`."""
