"""The processes that make ELSA run: cloud, edges and clients over gRPC, the command line and the testbed."""
