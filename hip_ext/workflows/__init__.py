"""What is done with Hessians over many structures: in parallel, to be stopped at any time and gone on with."""
