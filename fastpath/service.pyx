"""What is compiled once of PPPoE's services; service.pxd has the rest."""

assert sizeof(Service) == 256 and sizeof(Services) == 32768
