"""A trained model -> SavedModel and TFLite artefacts, each proven equal to the model."""
