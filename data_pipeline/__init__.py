"""From audio files to augmented batches of features: corpus, shards, front end, augmentation, tf.data."""
