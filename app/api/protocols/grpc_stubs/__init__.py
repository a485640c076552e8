"""What the gRPC services' messages are: `.proto` files, and the modules that `make stubs` makes of them."""
