"""gRPC: the same rooms, asked by remote calls. Imported only where `FOVEA_GRPC_PORT` is set."""
