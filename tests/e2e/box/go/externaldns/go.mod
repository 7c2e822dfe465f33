module mailarray.io/box/externaldns

go 1.26
