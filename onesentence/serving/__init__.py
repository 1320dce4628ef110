"""An HTTP service that summarizes: requests wait in a queue, and the pipeline's decoding answers batches."""
