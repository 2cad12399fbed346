"""The playground: small trainings on a stored study's slices, watched while they go on. Nothing is stored."""
