module sluice/devcluster/pause

go 1.26.0
