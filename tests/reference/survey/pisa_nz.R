# Writes pisa_nz.csv, which `gzip -9 -n` makes the pisa_nz.csv.gz of bhlm/sources/data: mitools 2.4.
library(mitools); data(pisamaths)
keep <- c("SCHOOLID","ST04Q01","ST14Q02","ST18Q02","MATHEFF","OPENPS",paste0("PV",1:5,"MATH"),"PCGIRLS","W_FSTUWT","W_FSCHWT")
d <- pisamaths[keep]; d$SCHOOLID <- as.integer(as.character(d$SCHOOLID))
write.csv(d, "pisa_nz.csv", row.names=FALSE, quote=FALSE, na="")
