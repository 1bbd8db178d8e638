"""From records to pictures: samplers, steering and the engine. Imports torch; nothing else outside the models does."""
