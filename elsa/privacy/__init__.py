"""What a client does so that an edge learns less from its activations, and the measure of what it learns anyway."""
