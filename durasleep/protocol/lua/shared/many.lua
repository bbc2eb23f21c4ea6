-- The waiters of a promise: one line each in its field, an inbox as `i<inbox>`, an entry of another execution as
-- `p<incarnation> <id>~<number>`. If there are many, the field says only that, and the lines are members of a set.
local MANY = '+'
