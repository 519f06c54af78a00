import time
def test_try(house, place):
    for i in range(5):
        a=house.start("backup",place); e=a.end(); print(e)
    for w in ("verify","prune"):
      for i in range(2):
        a=house.start(w,place); print(w, a.end())
    a=house.start("restore",place); print(a.end())
    print(house.postgres.databases())
