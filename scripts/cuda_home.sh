#!/bin/sh
# Prints the folder of the CUDA toolkit that nvcc belongs to, also where the nvcc on PATH is a script that calls it elsewhere.
nvcc --dryrun -c none.cu 2>&1 | sed -n 's/^#\$ TOP=//p'
