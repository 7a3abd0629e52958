"""The build in Docker: the engine, what a build says as it goes, `bootfarm container`."""
