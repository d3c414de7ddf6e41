"""The soak: random operations and faults against real servers, for minutes or hours (`script/soak`)."""
