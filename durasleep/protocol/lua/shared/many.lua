-- Who waits for a promise: in its field a line each, an inbox as `i<inbox>`, an entry of another execution as
-- `p<incarnation> <id>~<number>`. If they are many the field says only that, and the lines are members of a set.
local MANY = '+'
