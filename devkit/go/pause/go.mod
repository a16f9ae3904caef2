module trainedmodel.dev/devkit/pause

go 1.24.0
