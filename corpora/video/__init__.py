"""Images and time: decoding, seeking, encoding, camera motion, shots, quality."""
